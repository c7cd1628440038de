"""The colours of all plots: a model card's and a study's."""

INK, ACCENT, WARM, MUTED = "#1f2937", "#2563eb", "#dc2626", "#9ca3af"
