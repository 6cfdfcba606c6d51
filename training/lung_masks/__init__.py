"""Training and evaluation of the mask model: a U-Net that segments the lungs."""
