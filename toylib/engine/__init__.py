"""DPO on your own model and data: `DPOTrainer` and what it is made of."""
