"""What the trainer in ``model.py`` is made of: Gaussians, placement, schedules, files."""
