"""Students: LightningModules that train with or without a teacher."""
