"""Train and judge the model that checks the view of an image by its pixels."""
