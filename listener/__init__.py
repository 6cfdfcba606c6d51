"""The Storage SCP: receives objects, decides their view, keeps frontal chest radiographs."""
