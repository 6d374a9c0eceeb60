"""ModelScope: all that is its own, from the layout of its cache to the words of its errors."""

from optimum_htp.hubs.modelscope.hub import ModelScopeHub, optimum_htp_hubs

__all__ = ["ModelScopeHub", "optimum_htp_hubs"]
