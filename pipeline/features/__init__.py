"""Images -> VGG16 features, cached in a store on disk."""
