"""A real pretrained model learns two kinds of questions from unlabeled traffic and a few labels."""
