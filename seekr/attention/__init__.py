"""Reading the attention of any decoder without building its maps; knows torch and transformers, nothing of learning."""
