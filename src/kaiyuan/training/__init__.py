"""The one trainer, and the stages that only need a batch source for it: pre-training and long context."""
