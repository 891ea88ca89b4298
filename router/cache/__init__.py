"""The semantic cache: which stored answer, if any, may be given to a question; and where answers are kept."""
