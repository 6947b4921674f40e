"""What a run needs, on paper, before any weights are loaded: `seekr plan`."""
