"""`python -m optimum_htp.runtime FILE [INPUT ...]`: `optimum-cli htp run` where Optimum is not installed."""

from optimum_htp.runtime.command import main

if __name__ == "__main__":
    raise SystemExit(main())
