"""Pictures in and artefacts out: sources, uploads, exports, thumbnails."""
