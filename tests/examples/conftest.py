from tests.weights.conftest import demo_model as demo_model
