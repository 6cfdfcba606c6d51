"""``cxr send``: find DICOM files and send them to a Storage SCP."""
