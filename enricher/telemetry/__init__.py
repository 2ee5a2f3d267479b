"""What the enricher tells of itself: logs, metrics, health. What it tells of spans is not here."""
