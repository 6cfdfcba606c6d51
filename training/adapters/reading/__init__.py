"""Readers that adapters share: tables, values, folders, DICOM files, laboratory results, polygons."""
