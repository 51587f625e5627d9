"""How the packaged demo model is trained and measured."""
