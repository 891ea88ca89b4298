"""The semantic cache: stores answers, and decides which of them may be served for a question."""
