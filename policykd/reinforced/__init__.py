"""A student that learns from reward while it imitates: PPO with a distillation term; it measures no returns."""
