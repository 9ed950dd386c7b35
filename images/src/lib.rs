//! Recipes and archives become bootable, content-addressed images.
