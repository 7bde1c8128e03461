"""Stands for an edit of the service's code: an image with it differs from the one without."""
