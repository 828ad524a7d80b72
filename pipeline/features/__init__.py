"""Images -> VGG16 features, cached in a feature store on disk or in a bucket."""
