"""What can be asked of and changed in a running pipeline: the service of proto/enricher/control."""
