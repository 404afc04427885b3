"""The report on a model's quantization: how small it gets, and what that costs."""
