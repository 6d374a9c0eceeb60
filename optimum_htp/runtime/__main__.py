"""`python -m optimum_htp.runtime FILE [INPUT ...]`: the same as `optimum-cli htp run`, without Optimum."""

from optimum_htp.runtime.command import main

if __name__ == "__main__":
    raise SystemExit(main())
