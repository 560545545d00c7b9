"""The general model: a hash layer over an ImageNet classifier, fitted without labels."""
