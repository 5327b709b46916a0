"""The operator: makes the pods and Services that `DTESNBatcher` resources ask for, and keeps them so."""
