"""Settings of regressors of molecules that learn in seconds."""

SMALL = {"layers": 2, "width": 16, "hidden": 16, "basis": 8}
TRAINING = {
    "steps": 100,
    "batch_size": 32,
    "learning_rate": 1e-2,
    "warm_up": 5,
    "ema": 0.9,
    "log_every": 50,
    "bf16": False,
}
