"""Predicting which answers are right, and how many: features, classifiers, folds that don't share a template, estimates."""
