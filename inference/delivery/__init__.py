"""Delivery of reports to their destinations by C-STORE, STOW-RS or into a folder.

::

    sender ──▶ destination_client         protocol: store, verify
       │         ├─ dicom_client          association, dicom_verifier, commitment_scu
       │         ├─ stow_client
       │         └─ folder_client
       └─────▶ delivery_outcomes          records the outcome in db.deliveries
                 └─ backoff               time of the next attempt, or the end

``routes`` chooses the destinations of a result. Nothing is imported here, so that ``cxr send`` can import
``association`` without the DICOMweb libraries.
"""
