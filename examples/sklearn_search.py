"""scikit-learn: cross-validated accuracy of an SVM on a data set that ships with the package."""

from __future__ import annotations

from sklearn.datasets import load_digits
from sklearn.model_selection import cross_val_score
from sklearn.svm import SVC

import tunesmith

features, target = load_digits(n_class=6, return_X_y=True)


def objective(trial):
    """Mean accuracy of three folds."""
    model = SVC(
        C=trial.suggest_float("C", 1e-2, 1e3, log=True),
        gamma=trial.suggest_float("gamma", 1e-5, 1e-1, log=True),
        kernel=trial.suggest_categorical("kernel", ["rbf", "sigmoid"]),
    )
    return cross_val_score(model, features, target, cv=3).mean()


study = tunesmith.search(objective, n_trials=15, direction="maximize", seed=0)
print("best", study.best_trial.value, dict(study.best_trial.params))
