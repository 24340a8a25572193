"""The quality of each provider's service for each model, measured on the gateway's own requests and held in memory."""

from app.services.quality.quality import UNKNOWN, Latencies, ModelQuality, get_quality, start_quality

__all__ = ["UNKNOWN", "Latencies", "ModelQuality", "get_quality", "start_quality"]
