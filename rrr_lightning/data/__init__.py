"""Data modules whose order, augmentation and position are functions of (seed, step, index).

module.py            the base of all data modules
sampling.py          which samples a step sees
splits.py            names of splits, one rule for all readers
images.py            `ImageDataModule`; image_sources.py reads, transforms.py crops
text.py              `TextDataModule`; documents.py and text_files.py read, preparation.py and
                     tokenization.py tokenize once, masking.py masks, streaming.py streams
glue.py              `GlueDataModule`; glue_tasks.py, glue_sources.py
embedded.py          digits and prose that every installation has
wordpiece.py         a vocabulary trained on the documents themselves
"""
