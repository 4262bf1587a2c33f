"""benchbd: compare training-time defenses against backdoor attacks on image classifiers."""
