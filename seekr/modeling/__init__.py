"""Models: loaded, fed with batches, asked for logits and answers."""
