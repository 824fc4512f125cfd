"""Generate text with a trained model: loading, sampling settings, streaming of whole characters,
and two interactive sessions."""
