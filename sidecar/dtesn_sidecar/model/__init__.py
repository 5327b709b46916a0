"""The model: inputs as trees, weights, and the resumable run over a batch. Knows nothing of batching or HTTP."""
