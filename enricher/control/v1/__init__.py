"""Made from proto/enricher/control/v1 by scripts/generate_proto.py."""
