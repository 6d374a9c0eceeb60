"""The command `htp endpoint`: writes folders for Hugging Face Inference Endpoints."""
