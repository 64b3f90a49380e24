"""A search with workers in a real Jupyter kernel."""

from pathlib import Path

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).parent
PATIENCE = 300  # seconds; the kernel and the fork server import under load


def test_a_notebook_may_define_everything_in_its_cells(tmp_path):
    cells = [
        f"import sys; sys.path.insert(0, {str(HERE)!r})\nimport tiny, tunesmith, transformers",
        """class Seen(transformers.TrainerCallback):
    def on_evaluate(self, args, state, control, **kwargs):
        self.count = getattr(self, "count", 0) + 1

def rates(trial):
    return {"learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-1, log=True)}

class Own(tunesmith.Trainer):
    def compute_loss(self, *args, **kwargs):
        COUNTS.append(1)
        return super().compute_loss(*args, **kwargs)

COUNTS = []
SCALE = 2.0
def objective(metrics):
    return SCALE * metrics["eval_loss"]""",
        f"""trainer = tiny.make(Own, {str(tmp_path)!r}, callbacks=[Seen()])
best = trainer.hyperparameter_search(hp_space=rates, compute_objective=objective, n_trials=3, seed=0, workers=2)
[round(best.objective - 2 * trainer.evaluate()["eval_loss"], 5), bool(COUNTS), best.run_summary.trials[0].reason]""",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
    NotebookClient(notebook, timeout=PATIENCE, kernel_name="python3").execute()
    outputs = notebook.cells[-1].outputs
    assert [o["data"]["text/plain"] for o in outputs if o.output_type == "execute_result"] == ["[0.0, True, None]"]
    shown = "".join(o["data"].get("text/html", "") for o in outputs if o.output_type == "display_data")
    assert "3/3" in shown
