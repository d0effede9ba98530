"""``python -m kaiyuan``: the command line."""

from kaiyuan.cli import main

if __name__ == "__main__":
    main()
