"""Which ears are alike? Embeddings of a network, nearest neighbors, and few-shot learning on them."""
