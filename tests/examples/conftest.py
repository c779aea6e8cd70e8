from tests.models.conftest import demo_model as demo_model
