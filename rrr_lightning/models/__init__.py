"""Students: LightningModules that train with or without a teacher.

student.py           the base: optimizer, keyed randomness, checkpoint content
image_classifier.py  `ImageClassifier`; image_networks.py, pretrained.py
masked_lm.py         `MaskedLanguageModel`; masked_networks.py, masked_rows.py
text_classifier.py   `TextClassifier`; text_bodies.py, text_scores.py, text_student.py
hugging_face.py      networks from Hugging Face folders and hub ids
loading.py           networks from this library's checkpoints and exported folders
optimization.py      learning-rate schedules, fused AdamW
"""
