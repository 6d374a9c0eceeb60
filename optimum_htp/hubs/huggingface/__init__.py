"""The Hugging Face Hub: all that is its own, from the rules for its repo ids to the layout of its cache."""

from optimum_htp.hubs.huggingface.hub import HuggingFaceHub, optimum_htp_hubs

__all__ = ["HuggingFaceHub", "optimum_htp_hubs"]
