"""The page on which people judge samples: ``kaiyuan review FOLDER``. What it decides is in ``kaiyuan.curation``."""
