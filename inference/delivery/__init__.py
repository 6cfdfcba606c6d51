"""Results on their way to their destinations: C-STORE, STOW-RS, or a folder.

::

    sender ──▶ carrier (one per kind)     store, verify      never decides
       │         ├─ dicom_carrier     association, dicom_verifier, commitment_scu
       │         ├─ stow_carrier
       │         └─ folder_carrier
       ├─────▶ backoff                    when again, and when no more: a value
       └─────▶ db.deliveries              what came of it

``routes`` says which destinations a result has. Nothing is imported here, so that ``cxr send`` gets
``association`` without what DICOMweb needs.
"""
