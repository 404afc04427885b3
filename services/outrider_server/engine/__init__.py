"""Everything that touches torch: loading, the slot cache, the fixed-shape step, noise, sampling."""
