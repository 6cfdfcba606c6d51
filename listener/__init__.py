"""The Storage SCP: receives objects, decides what they show, keeps the frontal chest images."""
