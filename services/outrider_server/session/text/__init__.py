"""Between text and tokens: tokenizers, chat templates, messages, what is shown of a reply."""
