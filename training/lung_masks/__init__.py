"""Train and judge the model that finds the lungs."""
