"""From a trained policy to a version that serves: publish, gate, promote, delete."""
